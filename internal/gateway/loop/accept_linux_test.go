package loop_test

import (
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"signalbox/internal/gateway/loop"
)

// TestTooManyOpenFiles checks that accepting goes on after the process had no descriptors left.
func TestTooManyOpenFiles(t *testing.T) {
	each(t, loop.Config{}, func(s *side) loop.Handler { return newHandler(s.t, echo) }, func(s *side) {
		t := s.t
		exchange := func() {
			nc := s.dial(t)
			nc.Write([]byte("x"))
			if _, err := io.ReadFull(nc, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		exchange()
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		// The client's socket gets the last descriptor below the limit, the accepted one finds none.
		fd, err := unix.Dup(0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		low := limit
		low.Cur = uint64(fd) + 1
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		nc := s.dial(t)
		end := time.Now().Add(patience)
		for s.group.Stats().AcceptErrors.Load() < 2 && time.Now().Before(end) {
			nc.SetReadDeadline(time.Now().Add(time.Millisecond))
			nc.Read(make([]byte, 1))
		}
		n := s.group.Stats().AcceptErrors.Load()
		unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		if n < 2 || n > 2000 {
			t.Fatalf("%d accept errors, want a few", n)
		}
		exchange()
	})
}
