package cli

// key is one that a command understands.
type key int

// The keys.
const (
	keyPause key = iota + 1
	keyForward
	keyBack
	keyFaster
	keySlower
	keyQuit
)

// keyQueue is how many keys may wait to be taken; further ones are passed over.
const keyQueue = 16

// keyReader finds keys in what a terminal sends; the zero value is ready.
type keyReader struct {
	// sequence says how much of a control sequence (ECMA-48, section 5.4) was read: 0 nothing,
	// 1 ESC, 2 its introducer.
	sequence int
}

// read takes the next byte and gives the key that it completes, 0 for none.
func (r *keyReader) read(b byte) key {
	const escape = 0x1b
	switch {
	case b == escape:
		r.sequence = 1
		return 0
	case r.sequence == 1:
		r.sequence = 0
		if b == '[' || b == 'O' { // CSI; SS3, which some terminals send for arrows
			r.sequence = 2
		}
		return 0
	case r.sequence == 2:
		if b < 0x40 || b > 0x7e { // a parameter
			return 0
		}
		r.sequence = 0
		switch b {
		case 'C':
			return keyForward
		case 'D':
			return keyBack
		}
		return 0
	}
	switch b {
	case ' ':
		return keyPause
	case '+', '=': // the same key, without shift
		return keyFaster
	case '-', '_':
		return keySlower
	case 'q', 'Q', 0x03: // Ctrl-C, where the terminal makes no signal of it
		return keyQuit
	}
	return 0
}

// take puts the keys in bytes into the queue.
func (k *keyboard) take(r *keyReader, bytes []byte) {
	for _, b := range bytes {
		if pressed := r.read(b); pressed != 0 {
			select {
			case k.keys <- pressed:
			default:
			}
		}
	}
}
