package storetest

import "syscall"

// dieWithParent makes the system end a server whose test binary died.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
