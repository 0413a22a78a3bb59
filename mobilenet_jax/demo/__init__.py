"""A web page that classifies photographs on the device."""
