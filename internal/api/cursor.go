package api

import (
	"encoding/base64"
	"encoding/binary"
	"unicode/utf8"

	"signalbox"
	"signalbox/internal/history"
)

// Cursors are opaque to callers: base64url of a letter that says what is paged, and the
// place behind the last item.
const (
	cursorDevice    = 'd'
	cursorCommand   = 'c'
	cursorTelemetry = 't'
	cursorDead      = 'x'
)

func badCursor(text string) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_cursor", "the cursor %.100q was not made by this list; take it from the member next of the page before", text)
}

func encodeCursor(kind byte, place []byte) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{kind}, place...))
}

func decodeCursor(kind byte, text string) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < 2 || b[0] != kind {
		return nil, badCursor(text)
	}
	return b[1:], nil
}

// decodeText reads a cursor whose place is a name or an ID; "" is the beginning.
func decodeText(kind byte, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	b, err := decodeCursor(kind, text)
	if err != nil || !utf8.Valid(b) || len(b) > 4*signalbox.MaxNameLen {
		return "", badCursor(text)
	}
	return string(b), nil
}

// encodeHistory is the place behind a message, in a page of the given order.
func encodeHistory(order history.Order, c history.Cursor) string {
	place := []byte{byte(order)}
	place = binary.BigEndian.AppendUint64(place, uint64(c.TimeMicros))
	return encodeCursor(cursorTelemetry, binary.BigEndian.AppendUint64(place, uint64(c.Position)))
}

func decodeHistory(order history.Order, text string) (history.Cursor, error) {
	if text == "" {
		return history.Cursor{}, nil
	}
	b, err := decodeCursor(cursorTelemetry, text)
	if err != nil || len(b) != 17 || b[0] != byte(order) {
		return history.Cursor{}, badCursor(text)
	}
	c := history.Cursor{
		TimeMicros: int64(binary.BigEndian.Uint64(b[1:])), //nolint:gosec // the same 64 bits
		Position:   signalbox.Position(binary.BigEndian.Uint64(b[9:])),
	}
	if c == (history.Cursor{}) {
		return c, badCursor(text)
	}
	return c, nil
}
