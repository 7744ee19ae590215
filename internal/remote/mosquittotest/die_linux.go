package mosquittotest

import "syscall"

// dieWithParent makes the system end a broker whose test binary died.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
