"""ACPI: an AML encoder and the tables that stand in for firmware."""
