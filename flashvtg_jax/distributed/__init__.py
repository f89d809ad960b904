"""Devices and processes: mesh and shardings, agreement between processes, preemption, pmap."""
