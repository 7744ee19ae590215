package target

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unacknowledged are the bytes written to a TCP socket that the other end's system has not
// acknowledged (SIOCOUTQ, tcp(7)).
func unacknowledged(conn syscall.RawConn) (int64, error) {
	var n int
	var err error
	if outer := conn.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); outer != nil {
		return 0, outer
	}
	return int64(n), err
}
