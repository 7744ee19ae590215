package cli

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"signalbox/client"
)

// importFile is a file to import, looked through before it is sent, so that what is wrong
// can be told with its line. What an entry may be the hub decides alone.
type importFile struct {
	name string
	data []byte
	// format is one of client's; wholeHub is set for data.json with users and devices.
	format   string
	wholeHub bool
	// lines holds the line of each entry, by kind (user, device) and index.
	lines map[string][]int
	// twice tells of names that are there more than once.
	twice []string
	seen  map[string]int // line by kind and name
}

// note takes down an entry and where it begins.
func (f *importFile) note(kind, name string, line int) {
	f.lines[kind] = append(f.lines[kind], line)
	if name == "" {
		return
	}
	if first, ok := f.seen[kind+name]; ok {
		f.twice = append(f.twice, fmt.Sprintf("%s: the %s %s is there already, in line %d; the first one counts", f.at(line), kind, name, first))
		return
	}
	f.seen[kind+name] = line
}

// line gives the line of an entry of the hub's report, 0 if it is not known.
func (f *importFile) line(kind string, index int) int {
	if lines := f.lines[kind]; index >= 0 && index < len(lines) {
		return lines[index]
	}
	return 0
}

func (f *importFile) at(line int) string { return fmt.Sprintf("%s:%d", f.name, line) }

// fault is what is wrong with the file at a line.
func (f *importFile) fault(line int, format string, args ...any) error {
	return usagef("%s: %s; nothing was imported", f.at(line), fmt.Sprintf(format, args...))
}

// inspect looks through a file of which data is not empty.
func inspect(name string, data []byte) (f *importFile, err error) {
	if name == "-" {
		name = "standard input"
	}
	f = &importFile{name: name, data: data, format: client.JSON, lines: make(map[string][]int), seen: make(map[string]int)}
	if line, why := notText(data); why != "" {
		return nil, f.fault(line, "this is neither JSON nor CSV: %s", why)
	}
	first := bytes.TrimSpace(data)[0]
	switch {
	case first == '<':
		return nil, f.fault(1, "this looks like HTML or XML; JSON or CSV is needed")
	case strings.EqualFold(filepath.Ext(name), ".csv") || (first != '[' && first != '{'):
		f.format = client.CSV
		err = f.inspectCSV()
	default:
		err = f.inspectJSON(first)
	}
	return f, err
}

// notText says where and why data is no UTF-8 text, empty when it is.
func notText(data []byte) (line int, why string) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return 1, "it is text in UTF-16; save it as UTF-8"
	}
	line = 1
	for text := range bytes.Lines(data) {
		if bytes.IndexByte(text, 0) >= 0 {
			return line, "it holds bytes that are no text"
		}
		if !utf8.Valid(text) {
			return line, "the text is not UTF-8; save it as UTF-8"
		}
		line++
	}
	return 0, ""
}

func (f *importFile) inspectCSV() error {
	r := csv.NewReader(bytes.NewReader(f.data))
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	r.ReuseRecord = true
	column := 0 // of the name
	for first := true; ; first = false {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if e, ok := errors.AsType[*csv.ParseError](err); ok {
			return f.fault(e.Line, "this is not CSV: %s", e.Err)
		}
		if err != nil {
			return f.fault(1, "this is not CSV: %s", err)
		}
		line, _ := r.FieldPos(0)
		if first {
			if separator := otherSeparator(row); separator != "" {
				return f.fault(line, "the columns are separated by %s; commas are needed", separator)
			}
			if at := slices.IndexFunc(row, func(cell string) bool { return headWord(cell) == "name" }); at >= 0 {
				column = at
				continue
			}
			if slices.ContainsFunc(row, func(cell string) bool { return headWord(cell) != "" }) {
				return f.fault(line, "the columns have names, but none is called name")
			}
		}
		name := ""
		if column < len(row) {
			name = row[column]
		}
		f.note("device", name, line)
	}
	if len(f.lines["device"]) == 0 {
		return f.fault(1, "there are names of columns, but no devices")
	}
	return nil
}

// headWord gives the column that a cell of the first line names, empty for none.
func headWord(cell string) string {
	word := strings.ToLower(strings.TrimSpace(cell))
	if slices.Contains([]string{"name", "type", "password", "secret"}, word) {
		return word
	}
	return ""
}

// otherSeparator tells what separates the columns where it is no comma.
func otherSeparator(row []string) string {
	if len(row) != 1 {
		return ""
	}
	for separator, word := range map[string]string{";": "semicolons", "\t": "tabs", "|": "bars"} {
		if head, _, ok := strings.Cut(row[0], separator); ok && headWord(head) != "" {
			return word
		}
	}
	return ""
}

// jsonFile walks through the JSON of an importFile.
type jsonFile struct {
	*importFile
	decoder *json.Decoder
	offset  int // up to which lines were counted
	counted int // line breaks before offset
}

func (f *importFile) inspectJSON(first byte) error {
	j := &jsonFile{importFile: f, decoder: json.NewDecoder(bytes.NewReader(f.data))}
	var err error
	switch {
	case first == '[':
		err = j.list("device", "the file")
	case isDataFile(f.data):
		f.wholeHub = true
		err = j.dataFile()
	default:
		f.format = client.NDJSON
		err = j.objects()
	}
	if err != nil {
		return err
	}
	if _, err := j.decoder.Token(); !errors.Is(err, io.EOF) {
		return f.fault(j.next(), "something follows the end of the JSON")
	}
	if !f.wholeHub && len(f.lines["device"]) == 0 {
		return f.fault(1, "there are no devices in it")
	}
	return nil
}

// next gives the line of the next value.
func (j *jsonFile) next() int {
	at := int(j.decoder.InputOffset())
	for at < len(j.data) && strings.IndexByte(" \t\r\n,:", j.data[at]) >= 0 {
		at++
	}
	return j.lineOf(at)
}

// lineOf gives the line of an offset; offsets only grow, but for faults.
func (j *jsonFile) lineOf(at int) int {
	at = min(at, len(j.data))
	if at < j.offset {
		return 1 + bytes.Count(j.data[:at], []byte("\n"))
	}
	j.counted += bytes.Count(j.data[j.offset:at], []byte("\n"))
	j.offset = at
	return 1 + j.counted
}

// broken is the fault of JSON that breaks off or is none.
func (j *jsonFile) broken(err error) error {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok && !strings.Contains(e.Error(), "unexpected end") {
		at := int(e.Offset)
		if !strings.HasPrefix(e.Error(), "expected ") { // such a fault counts the byte that is wrong, too
			at = max(at-1, 0)
		}
		return j.fault(j.lineOf(at), "this is not JSON: %s", e)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "unexpected end") {
		return j.fault(j.lineOf(len(bytes.TrimSpace(j.data))), "the JSON ends in the middle")
	}
	return j.fault(j.next(), "this is not JSON: %s", err)
}

// list walks through a JSON list of entries; what is what is called a list.
func (j *jsonFile) list(kind, what string) error {
	line := j.next()
	if t, err := j.decoder.Token(); err != nil {
		return j.broken(err)
	} else if t != json.Delim('[') {
		return j.fault(line, "%s must be a list", what)
	}
	for j.decoder.More() {
		if err := j.entry(kind); err != nil {
			return err
		}
	}
	if _, err := j.decoder.Token(); err != nil {
		return j.broken(err)
	}
	return nil
}

// entry takes down the next value; that it is no object, or of which members, the hub
// tells.
func (j *jsonFile) entry(kind string) error {
	line := j.next()
	var raw json.RawMessage
	if err := j.decoder.Decode(&raw); err != nil {
		return j.broken(err)
	}
	var e struct {
		Name     string `json:"name"`
		Username string `json:"username"`
	}
	_ = json.Unmarshal(raw, &e) // an entry of another shape has no name
	j.note(kind, cmp.Or(e.Name, e.Username), line)
	return nil
}

func (j *jsonFile) objects() error {
	for j.decoder.More() {
		if err := j.entry("device"); err != nil {
			return err
		}
	}
	if lines := j.lines["device"]; len(lines) == 1 && len(j.seen) == 0 {
		return j.fault(lines[0], "an object with neither users, devices nor a name; a device has name, type and password, a data.json has users and devices")
	}
	return nil
}

func (j *jsonFile) dataFile() error {
	if _, err := j.decoder.Token(); err != nil {
		return j.broken(err)
	}
	for j.decoder.More() {
		key, err := j.decoder.Token()
		if err != nil {
			return j.broken(err)
		}
		switch key {
		case "users", "devices":
			err = j.list(strings.TrimSuffix(fmt.Sprint(key), "s"), fmt.Sprint(key))
			if err != nil {
				return err
			}
		default:
			var skipped json.RawMessage
			if err = j.decoder.Decode(&skipped); err != nil {
				return j.broken(err)
			}
		}
	}
	if _, err := j.decoder.Token(); err != nil {
		return j.broken(err)
	}
	if len(j.lines["user"])+len(j.lines["device"]) == 0 {
		return j.fault(1, "there are neither users nor devices in it")
	}
	return nil
}

// isDataFile says whether data is the original server's file: an object with users or
// devices, and no device by itself.
func isDataFile(data []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return false
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return false
		}
		if key == "users" || key == "devices" {
			return true
		}
		var skipped json.RawMessage
		if decoder.Decode(&skipped) != nil {
			return false
		}
	}
	return false
}
