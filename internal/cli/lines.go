package cli

import (
	"bufio"
	"sync"
	"time"
)

// lineFlusher gathers lines that follow each other closely: a line is shown at the latest
// after replayFlush, whether another comes or not.
type lineFlusher struct {
	mu    sync.Mutex
	out   *bufio.Writer
	timer *time.Timer
	err   error
}

func newLineFlusher(out *bufio.Writer) *lineFlusher {
	l := &lineFlusher{out: out}
	l.timer = time.AfterFunc(time.Hour, func() { _ = l.flush() }) // write tells of the error
	l.timer.Stop()
	return l
}

// write calls do, which writes a line.
func (l *lineFlusher) write(do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if l.out.Buffered() == 0 {
		l.timer.Reset(replayFlush)
	}
	return do()
}

// flush shows what was written.
func (l *lineFlusher) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.out.Flush(); l.err == nil {
		l.err = err
	}
	return l.err
}

// stop ends it; nothing is written from then on.
func (l *lineFlusher) stop() {
	l.timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.Reset(nil)
}
