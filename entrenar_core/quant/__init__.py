"""Post-training quantization: mixes of types, calibration, error reports; and fake quantization for training."""
