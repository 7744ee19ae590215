//go:build !linux

package mosquittotest

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
