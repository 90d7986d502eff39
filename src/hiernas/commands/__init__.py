"""What the commands beside search and resume do, one file each."""
