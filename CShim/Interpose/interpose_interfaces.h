// What ioctl hands on to interpose_interfaces.c.
#pragma once

/// Whether `request` is one of netdevice(7)'s.
int anp_is_interface_request(unsigned long request);
/// 0, -errno, or ANP_PASS: the kernel's answer is the answer.
long anp_interface_request(int fd, unsigned long request, void *argument);
