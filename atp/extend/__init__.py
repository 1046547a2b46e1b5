"""For authors of testbeds: write a new one, and check one."""
