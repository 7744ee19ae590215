package target

import (
	"bytes"
	"fmt"
	"strconv"

	"signalbox"
)

// parseAck reads a line by which a receiver says up to where it has everything: the cursor of a
// message («epoch-position»), or its position alone, in decimal digits. epoch is empty then.
func parseAck(line []byte) (epoch string, position signalbox.Position, err error) {
	digits := line
	if i := bytes.LastIndexByte(line, '-'); i >= 0 {
		epoch, digits = string(line[:i]), line[i+1:]
		if epoch == "" {
			return "", 0, badAck(line)
		}
	}
	n, err := strconv.ParseUint(string(digits), 10, 63)
	if err != nil || n == 0 || digits[0] < '0' || digits[0] > '9' {
		return "", 0, badAck(line)
	}
	return epoch, signalbox.Position(n), nil
}

func badAck(line []byte) error {
	const shown = 40
	if len(line) > shown {
		line = line[:shown]
	}
	return fmt.Errorf("the receiver answered %q, which acknowledges nothing; "+
		"a line with the cursor or the position of the last message it has is expected, of at most %d bytes", line, maxAckLine)
}
