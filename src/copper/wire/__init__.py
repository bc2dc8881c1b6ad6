"""What travels: frames on a guest's channel and the messages in them."""
