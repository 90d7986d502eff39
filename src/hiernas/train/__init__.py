"""Training of supernets and stand-alone networks."""
