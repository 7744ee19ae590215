package target

import (
	"strconv"
	"strings"

	"signalbox"
	"signalbox/internal/forward"
)

// A block is what is written at a time: the lines of messages that follow each other.
type block struct {
	lines       []byte
	messages    int
	first, last signalbox.Position
	// epochs are those of the messages' cursors, when the receiver acknowledges.
	epochs []string
	replay bool // some of the messages are played by a replay
}

// makeBlock puts messages into memory, each with a line break unless it ends with one, until there
// is about blockSize: at least one. batch is not empty.
func makeBlock(memory []byte, batch []forward.Message, ack bool) block {
	if memory == nil {
		n := 0
		for i := 0; i < len(batch) && (i == 0 || n+len(batch[i].Body) < blockSize); i++ {
			n += len(batch[i].Body) + 1
		}
		memory = make([]byte, 0, n)
	}
	b := block{lines: memory, first: batch[0].Position}
	for i := range batch {
		m := &batch[i]
		if i > 0 && len(b.lines)+len(m.Body) >= blockSize {
			break
		}
		b.lines = append(b.lines, m.Body...)
		if len(m.Body) == 0 || m.Body[len(m.Body)-1] != '\n' {
			b.lines = append(b.lines, '\n')
		}
		b.messages, b.last = i+1, m.Position
		b.replay = b.replay || m.Replay != ""
		if ack {
			b.noteEpoch(m)
		}
	}
	return b
}

// unsent is the error of a Send of which batch[from:] was not begun. Messages that are sent besides the
// log have the position of what was before them, so that several may have one: those that share it
// with one that was begun count as begun.
func unsent(batch []forward.Message, from int, err error) error {
	if from == 0 {
		return &forward.Unsent{From: batch[0].Position, Err: err}
	}
	return &forward.Unsent{From: batch[from-1].Position + 1, Err: err}
}

// size is what the block takes of memory, about.
func (b *block) size() int { return len(b.lines) + 128 }

func (b *block) noteEpoch(m *forward.Message) {
	if n := len(b.epochs); n > 0 && strings.HasPrefix(m.Cursor, b.epochs[n-1]+"-") {
		return // as nearly all
	}
	if epoch, cut := strings.CutSuffix(m.Cursor, "-"+strconv.FormatUint(uint64(m.Position), 10)); cut && epoch != "" {
		b.epochs = append(b.epochs, epoch)
	}
}
