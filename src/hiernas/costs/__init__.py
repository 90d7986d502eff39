"""What a network costs: parameters, multiply-adds and latency, as tables per site and option, and limits on them."""
