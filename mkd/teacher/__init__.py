"""Teachers: what labels weak views."""
