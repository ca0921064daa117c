"""The kernel gateway, the kernel client, and what runs between them. Floor: kernel_mgr."""
