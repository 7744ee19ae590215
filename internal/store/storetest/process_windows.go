package storetest

import (
	"errors"
	"syscall"
)

// process is a server; on this system none can be started.
type process struct{ ended chan struct{} }

func own(string) error { return nil }

func credentials() (*syscall.SysProcAttr, error) {
	return nil, errors.New("test servers run on Unix systems only")
}

func spawn(string, string, []string) (*process, error) {
	return nil, errors.New("test servers run on Unix systems only")
}

func (p *process) hard() syscall.Signal { return syscall.SIGKILL }

func (p *process) end() error { return nil }

func (p *process) stop(syscall.Signal) error { return nil }

func (p *process) pause() error { return nil }

func (p *process) resume() error { return nil }
