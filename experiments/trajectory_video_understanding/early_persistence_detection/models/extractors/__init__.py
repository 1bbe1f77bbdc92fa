"""What turns frames into tokens: four causal video models behind one interface (`interface`), by name (`registry`)."""
