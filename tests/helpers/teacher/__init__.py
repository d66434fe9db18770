"""What tests of the teacher service share."""
