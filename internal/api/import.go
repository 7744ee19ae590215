package api

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/registry"
	"signalbox/internal/store"
)

// MaxImportEntries bounds the entries of one import.
const MaxImportEntries = 200_000

// What became of an entry of an import.
const (
	outcomeCreated = "created"
	outcomeKept    = "kept"
	outcomeRefused = "refused"
)

// importEntry is the report on one entry.
type importEntry struct {
	Kind    string `json:"kind" enum:"user,device"`
	Index   int    `json:"index" doc:"The entry's place in its list, from 0."`
	Name    string `json:"name"`
	Outcome string `json:"outcome" enum:"created,kept,refused" doc:"Kept: there was one of that name, and it stays as it is."`
	Code    string `json:"code,omitempty" doc:"Why it was kept or refused, in a word."`
	Message string `json:"message,omitempty" doc:"Why it was kept or refused."`
	Secret  string `json:"secret,omitempty" doc:"The generated secret of a new device that came without one; shown this once."`
}

// importBody is the report on an import.
type importBody struct {
	Created int           `json:"created"`
	Kept    int           `json:"kept"`
	Refused int           `json:"refused"`
	Entries []importEntry `json:"entries" nullable:"false"`
}

func (b *importBody) add(e importEntry, outcome string, why error) {
	e.Outcome = outcome
	if why != nil {
		e.Code, e.Message = signalbox.CodeOf(why), wordsOf(why)
	}
	switch outcome {
	case outcomeCreated:
		b.Created++
	case outcomeKept:
		b.Kept++
		e.Secret = ""
	default:
		b.Refused++
		e.Secret = ""
	}
	b.Entries = append(b.Entries, e)
}

// wordsOf gives what a caller may see of err.
func wordsOf(err error) string {
	if e, ok := errors.AsType[*signalbox.Error](err); ok {
		return e.Message
	}
	return "something went wrong inside the hub"
}

type importInput struct{ streamed }

type importOutput struct{ Body importBody }

func (s *server) registerImports() {
	devices := operation(http.MethodPost, "/devices/import", "import-devices", "devices", "Add many devices",
		"The body is a JSON array, JSON objects one after another (NDJSON), or CSV; an entry has name, type and password (or secret). "+
			"All entries that can be added are, in one transaction; the report says what became of each. Entries without a password get a generated secret.")
	register(s, signalbox.ScopeAdmin, devices, s.importDevices)
	s.describeBody("/api/v1/devices/import", map[string]string{
		"application/json":     `[{"name":"esp01","type":"box","password":"1234"}]`,
		"application/x-ndjson": `{"name":"esp01","type":"box","password":"1234"}`,
		"text/csv":             "name,type,password\nesp01,box,1234\n",
	})
	all := operation(http.MethodPost, "/import", "import", "import", "Import the original server's data.json",
		"Users keep their bcrypt hashes, devices their passwords. Doing it again changes nothing: whoever is there is kept and reported.")
	register(s, signalbox.ScopeAdmin, all, s.importData)
	s.describeBody("/api/v1/import", map[string]string{
		"application/json": `{"users":[{"id":1,"username":"admin","password_hash":"$2b$12$…"}],"devices":[{"name":"esp01","type":"box","password":"1234"}]}`,
	})
}

// describeBody tells the documents about a body that huma does not read.
func (s *server) describeBody(path string, examples map[string]string) {
	body := &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}}
	for kind, example := range examples {
		body.Content[kind] = &huma.MediaType{Example: example}
	}
	s.api.OpenAPI().Paths[path].Post.RequestBody = body
}

// newcomers collects the devices of an import.
type newcomers struct {
	s       *server
	list    []registry.NewDevice
	entries []importEntry // of list
	report  importBody
	n       int
}

// offer takes one entry; why is what is wrong with it already, nil for nothing.
func (n *newcomers) offer(name, kind, secret string, why error) error {
	if n.n == MaxImportEntries {
		return signalbox.Errorf(signalbox.KindTooLarge, "import_too_large", "there are more than %d entries; import them in several parts", MaxImportEntries)
	}
	entry := importEntry{Kind: "device", Index: n.n, Name: name}
	n.n++
	if kind == "" {
		kind = DefaultType
	}
	if why == nil {
		why = registry.CheckNew(name, kind)
	}
	var kept store.Secret
	if why == nil {
		kept, entry.Secret, why = n.s.secret(secret)
	}
	if why != nil {
		n.report.add(entry, outcomeRefused, why)
		return nil
	}
	n.list = append(n.list, registry.NewDevice{Name: name, Type: kind, Secret: kept})
	n.entries = append(n.entries, entry)
	return nil
}

// commit adds them, together with what also writes, and completes the report.
func (n *newcomers) commit(ctx context.Context, also func(tx *store.Tx) error) error {
	outcomes, err := n.s.Devices.AddAll(ctx, n.list, also)
	if err != nil {
		return err
	}
	for i, o := range outcomes {
		switch {
		case o.Err == nil:
			n.report.add(n.entries[i], outcomeCreated, nil)
		case signalbox.KindOf(o.Err) == signalbox.KindConflict:
			n.report.add(n.entries[i], outcomeKept, o.Err)
		default:
			n.report.add(n.entries[i], outcomeRefused, o.Err)
		}
	}
	slices.SortStableFunc(n.report.Entries, func(a, b importEntry) int { return a.Index - b.Index })
	return nil
}

func (s *server) importDevices(ctx context.Context, in *importInput) (*importOutput, error) {
	body := skipMark(in.body)
	n := &newcomers{s: s, report: importBody{Entries: []importEntry{}}}
	kind, _, err := mime.ParseMediaType(in.contentType)
	if err != nil {
		kind = ""
	}
	first, err := firstByte(body)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	switch {
	case kind == "text/csv", first != '[' && first != '{' && !strings.Contains(kind, "json"):
		err = readCSV(body, n)
	case first == '[':
		err = readArray(json.NewDecoder(body), n)
	default:
		err = readObjects(json.NewDecoder(body), n)
	}
	if err != nil {
		return nil, err
	}
	if n.n == 0 {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "empty_import", "the body holds no devices; it needs a JSON array, JSON objects or CSV with name, type and password")
	}
	if err := n.commit(ctx, nil); err != nil {
		return nil, err
	}
	return &importOutput{n.report}, nil
}

// skipMark passes over a byte order mark, which some editors write.
func skipMark(r io.Reader) *bufio.Reader {
	b := bufio.NewReaderSize(r, 64<<10)
	if mark, err := b.Peek(3); err == nil && string(mark) == "\xef\xbb\xbf" {
		_, _ = b.Discard(3) // they are there
	}
	return b
}

// firstByte gives the first byte that is no white space, without taking it.
func firstByte(b *bufio.Reader) (byte, error) {
	for {
		c, err := b.ReadByte()
		if err != nil {
			return 0, err
		}
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c, b.UnreadByte()
		}
	}
}

// fileDevice is a device as data.json and lists of devices have it.
type fileDevice struct {
	Name     string  `json:"name"`
	Type     string  `json:"type"`
	Password *string `json:"password"`
	Secret   *string `json:"secret"`
}

// decodeDevice offers the next value of dec.
func decodeDevice(dec *json.Decoder, n *newcomers) error {
	var d fileDevice
	err := dec.Decode(&d)
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		what := mismatch.Field
		if what == "" {
			what = "the entry"
		}
		return n.offer(d.Name, d.Type, "", signalbox.Errorf(signalbox.KindInvalid, "invalid_entry", "%s is a JSON %s; an entry is an object whose name, type and password are strings", what, mismatch.Value))
	}
	if err != nil {
		return brokenJSON(dec, err)
	}
	chosen := d.Password
	if chosen == nil {
		chosen = d.Secret
	}
	if chosen == nil {
		return n.offer(d.Name, d.Type, "", nil)
	}
	return n.offer(d.Name, d.Type, *chosen, auth.CheckChosen(*chosen))
}

func readArray(dec *json.Decoder, n *newcomers) error {
	if _, err := dec.Token(); err != nil {
		return brokenJSON(dec, err)
	}
	for dec.More() {
		if err := decodeDevice(dec, n); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return brokenJSON(dec, err)
	}
	return nothingMore(dec)
}

func readObjects(dec *json.Decoder, n *newcomers) error {
	for dec.More() {
		if err := decodeDevice(dec, n); err != nil {
			return err
		}
	}
	return nothingMore(dec)
}

// nothingMore refuses what follows the end of a document.
func nothingMore(dec *json.Decoder) error {
	_, err := dec.Token()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = errors.New("something follows the end of the document")
	}
	return brokenJSON(dec, err)
}

// brokenJSON is the error for a document that ends or breaks in the middle; nothing of it
// has been taken.
func brokenJSON(dec *json.Decoder, err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	words := err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		words = "it ends in the middle"
	}
	return signalbox.Wrap(signalbox.KindInvalid, "invalid_json", err, "the body is not valid JSON near byte %d: %s; nothing was imported", dec.InputOffset(), words)
}

// readCSV reads name, type and password (RFC 4180), in this order or as a first line says.
func readCSV(body io.Reader, n *newcomers) error {
	r := csv.NewReader(body)
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	r.ReuseRecord = true
	columns := map[string]int{"name": 0, "type": 1, "password": 2}
	for first := true; ; first = false {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				return err
			}
			return signalbox.Wrap(signalbox.KindInvalid, "invalid_csv", err, "the body is not valid CSV: %s; nothing was imported", err)
		}
		if first && slices.ContainsFunc(row, isColumn) {
			if err := readHeader(row, columns); err != nil {
				return err
			}
			continue
		}
		cell := func(name string) string {
			if i, ok := columns[name]; ok && i < len(row) {
				return strings.Clone(row[i])
			}
			return ""
		}
		secret := cell("password")
		if secret == "" {
			secret = cell("secret")
		}
		var why error
		if secret != "" {
			why = auth.CheckChosen(secret)
		}
		if err := n.offer(cell("name"), cell("type"), secret, why); err != nil {
			return err
		}
	}
}

func isColumn(cell string) bool {
	switch strings.ToLower(strings.TrimSpace(cell)) {
	case "name", "type", "password", "secret":
		return true
	default:
		return false
	}
}

// readHeader fills columns from a first line that names them.
func readHeader(row []string, columns map[string]int) error {
	clear(columns)
	for i, cell := range row {
		if !isColumn(cell) {
			return signalbox.Errorf(signalbox.KindInvalid, "invalid_csv",
				"the first line names a column %q; allowed are name, type and password (or secret); nothing was imported", strings.TrimSpace(cell))
		}
		columns[strings.ToLower(strings.TrimSpace(cell))] = i
	}
	if _, ok := columns["name"]; !ok {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_csv", "the first line names columns, but not name; nothing was imported")
	}
	return nil
}

// fileUser is a user as data.json has it.
type fileUser struct {
	Username string `json:"username"`
	Hash     string `json:"password_hash"`
}

func (s *server) importData(ctx context.Context, in *importInput) (*importOutput, error) {
	n := &newcomers{s: s, report: importBody{Entries: []importEntry{}}}
	var users []fileUser
	dec := json.NewDecoder(skipMark(in.body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		if err == nil {
			err = errors.New("it is no object")
		}
		return nil, brokenJSON(dec, err)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, brokenJSON(dec, err)
		}
		switch key {
		case "users":
			err = dec.Decode(&users)
		case "devices":
			err = s.readDevices(dec, n)
		default:
			var skipped json.RawMessage
			err = dec.Decode(&skipped)
		}
		if _, ok := errors.AsType[*signalbox.Error](err); ok {
			return nil, err
		}
		if err != nil {
			return nil, brokenJSON(dec, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, brokenJSON(dec, err)
	}
	if err := nothingMore(dec); err != nil {
		return nil, err
	}
	return s.importAll(ctx, users, n)
}

// readDevices reads the member devices of data.json.
func (s *server) readDevices(dec *json.Decoder, n *newcomers) error {
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		if err == nil {
			err = errors.New("devices is no array")
		}
		return err
	}
	for dec.More() {
		if err := decodeDevice(dec, n); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// importAll writes users and devices in one transaction.
func (s *server) importAll(ctx context.Context, users []fileUser, n *newcomers) (*importOutput, error) {
	if len(users) > auth.MaxPeople {
		return nil, signalbox.Errorf(signalbox.KindTooLarge, "import_too_large", "there are %d users; at most %d are allowed", len(users), auth.MaxPeople)
	}
	var people importBody
	err := n.commit(ctx, func(tx *store.Tx) error {
		people = importBody{Entries: []importEntry{}}
		now := time.Now().UTC().Truncate(time.Millisecond)
		for i, u := range users {
			entry := importEntry{Kind: "user", Index: i, Name: u.Username}
			why := auth.CheckUserName(u.Username)
			if why == nil {
				why = auth.CheckHash(u.Hash)
			}
			if why != nil {
				people.add(entry, outcomeRefused, why)
				continue
			}
			person := signalbox.User{Name: u.Username, CreatedAt: now}
			var err error
			person.ID, err = tx.InsertPerson(ctx, person, u.Hash)
			switch {
			case err == nil:
				tx.Then(func() { s.People.Imported(person, u.Hash) })
				people.add(entry, outcomeCreated, nil)
			case signalbox.KindOf(err) == signalbox.KindConflict:
				people.add(entry, outcomeKept, err)
			default:
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	people.Created += n.report.Created
	people.Kept += n.report.Kept
	people.Refused += n.report.Refused
	people.Entries = append(people.Entries, n.report.Entries...)
	return &importOutput{people}, nil
}
