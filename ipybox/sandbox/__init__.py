"""What a process may touch: policy, egress proxy, walls of namespaces and seccomp. Floor: sandbox."""
