"""The campaign: fuzzers and watches over the whole public surface; `make campaign` runs it in full."""
