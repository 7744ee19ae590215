package transfer

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/wire"
)

// ndjsonWriter writes one object a line.
type ndjsonWriter struct {
	w   *bufio.Writer
	buf []byte
}

func (n *ndjsonWriter) write(device string, e *signalbox.Entry) error {
	b := n.buf[:0]
	b = append(append(b, `{"device":"`...), device...)
	b = append(appendTime(append(b, `","time":"`...), e.TimeMicros), `","received":"`...)
	b = append(appendTime(b, e.ReceivedMicros), `",`...)
	if bytes.ContainsAny(e.Body, "\r\n") {
		b = wire.AppendString(append(b, `"raw":`...), string(e.Body))
	} else {
		b = append(append(b, `"object":`...), e.Body...)
	}
	b = append(b, "}\n"...)
	n.buf = b
	_, err := n.w.Write(b)
	return err
}

func (n *ndjsonWriter) close() error { return n.w.Flush() }

// ndjsonReader reads one object a line.
type ndjsonReader struct {
	lines  lineReader
	clock  *clock
	device string // of rows that name none
}

func (n *ndjsonReader) Next(row *Row) error {
	for {
		text, tooLong, err := n.lines.next()
		if err != nil {
			return err
		}
		line := n.lines.line
		if tooLong {
			return refuse(line, "", "the line is longer than %d bytes", maxRecord)
		}
		text = bytes.TrimSpace(text)
		if len(text) == 0 {
			continue
		}
		return n.parse(line, text, row)
	}
}

func (n *ndjsonReader) parse(line int64, text []byte, row *Row) error {
	switch {
	case text[0] != '{' || !gjson.ValidBytes(text):
		return refuse(line, "", "the line is no JSON object")
	case !utf8.Valid(text):
		return refuse(line, "", "the line is not valid UTF-8")
	}
	*row = Row{Line: line, Device: n.device}
	if wire.Replayed(text) {
		return refuse(line, gjson.GetBytes(text, columnDevice).Str, replayedReason)
	}
	var at, raw gjson.Result
	unknown := ""
	gjson.ParseBytes(text).ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "device":
			row.Device = value.Str
		case "time":
			at = value
		case "object", "raw":
			raw = value
			if key.Str == "raw" {
				raw.Raw = value.Str
			}
		case "received", "position":
		default:
			unknown = key.Str
		}
		return true
	})
	switch {
	case unknown != "":
		return refuse(line, row.Device, "there is no member %q; known are device, time, received, object and raw", cutShort(unknown))
	case row.Device == "":
		return refuse(line, "", "no device is named")
	case !at.Exists():
		return refuse(line, row.Device, "there is no time")
	case raw.Raw == "":
		return refuse(line, row.Device, "there is no object")
	}
	micros, err := n.clock.parse(at.String())
	if err != nil {
		return refuse(line, row.Device, "%s", err)
	}
	row.Time, row.Object = micros, []byte(raw.Raw)
	if why := checkObject(row.Object); why != "" {
		return refuse(line, row.Device, "%s", why)
	}
	return nil
}

// lineReader gives the lines of a text, but no more than maxRecord bytes of each.
type lineReader struct {
	r    *bufio.Reader
	line int64 // of the last one given
	buf  []byte
}

// next gives the next line, lent until the next call, with io.EOF behind the last.
func (l *lineReader) next() (text []byte, tooLong bool, err error) {
	l.buf = l.buf[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.buf)+len(part) > maxRecord {
			tooLong = true
		} else {
			l.buf = append(l.buf, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (!errors.Is(err, io.EOF) || len(l.buf) == 0 && !tooLong) {
			return nil, false, err
		}
		l.line++
		return l.buf, tooLong, nil
	}
}

// likeNDJSON says whether the beginning of a text is telemetry as NDJSON: its first object has
// a time and an object.
func likeNDJSON(head []byte) bool {
	head = bytes.TrimSpace(head)
	line, _, _ := bytes.Cut(head, []byte("\n"))
	if len(line) == 0 || line[0] != '{' {
		return false
	}
	keys := map[string]bool{}
	gjson.Parse(strings.ToValidUTF8(string(line), "")).ForEach(func(key, _ gjson.Result) bool {
		keys[key.Str] = true
		return true
	})
	return keys["time"] && (keys["object"] || keys["raw"] || keys["device"])
}
