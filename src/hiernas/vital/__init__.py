"""Which blocks a network cannot be without, and how much it needs the others (HourNAS, Fig. 2)."""
