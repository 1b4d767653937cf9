"""The sublayer problem and the bank of calibrated sublayers."""
