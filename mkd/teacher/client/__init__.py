"""The student's side of the teacher service: dispatching requests, connections, publishing weights."""
