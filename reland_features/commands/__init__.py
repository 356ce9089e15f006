"""Groups of the `reland` command, one file each; `reland_features.cli` holds those without a group and joins them."""
