"""What takes long to show: runs killed at random, millions of hostile inputs, half an hour without a leak (``make kills fuzz soak``)."""
