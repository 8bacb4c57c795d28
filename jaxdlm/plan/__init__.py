"""Memory, time and money of a decode on TPU slices that are not here, from the TPU compiler and published figures."""
