//go:build !linux

package loop

import (
	"context"
	"errors"
	"net"
)

// loops are the epoll loops of a group; there are none on this system.
type loops struct{}

func (*loops) start(*Group) error { return nil }
func (*loops) ready() bool        { return false }
func (*loops) stop()              {}
func (*loops) kill()              {}

func (*loops) serve(context.Context, *net.TCPListener, *source) error {
	return errors.ErrUnsupported
}
