"""Patches: class modules attached to a weak model, calibrated, judged, gated and compared."""
