"""Every schedule of the real read side and the real write side, with faults: see docs/maintain/schedules.md."""
