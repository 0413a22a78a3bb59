"""Checkpoints of TensorFlow 1, in which Google published MobileNet v1 in 2017 and 2018."""
