"""Domain XML in and out, and what the connection says of itself in XML."""
