package transfer

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"signalbox/internal/wire"

	"signalbox"
)

// DefaultTable is the table of the M2M original, DefaultField its column of readings.
const (
	DefaultTable = "temp"
	DefaultField = "temp"
)

// dumpReader reads the rows of one table out of a dump.
type dumpReader struct {
	lex                    *lexer
	clock                  *clock
	device                 string
	database, table        string // wanted; database "": any
	timeColumn, field      string
	using                  string              // the database that USE named
	columns                map[string][]string // by table
	tables                 map[string]bool     // all that were seen
	found                  string              // database of the table that was found
	taken, inside          bool
	timeAt, fieldAt, width int // of the INSERT that is being read; width 0: not known
}

func newDumpReader(in io.Reader, c *clock, o *ReadOptions) (*dumpReader, error) {
	if o.Device == "" {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "no_device", "a dump names no devices; name the one whose readings the table has (device)")
	}
	d := &dumpReader{
		lex: newLexer(in), clock: c, device: o.Device, table: cmp.Or(o.Table, DefaultTable), timeColumn: cmp.Or(o.TimeColumn, columnTime),
		field: cmp.Or(o.Field, DefaultField), columns: map[string][]string{}, tables: map[string]bool{},
	}
	if database, table, ok := strings.Cut(d.table, "."); ok {
		d.database, d.table = database, table
	}
	return d, nil
}

func (d *dumpReader) Next(row *Row) error {
	for !d.inside {
		if err := d.statement(); err != nil {
			if errors.Is(err, io.EOF) && !d.taken {
				return d.noTable()
			}
			return d.cutOff(err)
		}
	}
	err := d.tuple(row)
	if _, ok := errors.AsType[*Refusal](err); ok {
		return err
	}
	return d.cutOff(err)
}

// cutOff words the end of a dump in the middle of a statement.
func (d *dumpReader) cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fault(d.lex.line, "the dump ends in the middle of a statement")
	}
	return err
}

func (d *dumpReader) noTable() error {
	names := slices.Sorted(maps.Keys(d.tables))
	if len(names) > 20 {
		names = append(names[:20], "…")
	}
	what := "it holds no tables"
	if len(names) > 0 {
		what = "it holds " + strings.Join(names, ", ")
	}
	return signalbox.Errorf(signalbox.KindInvalid, "no_table", "the dump has no rows of a table %s; %s; nothing was imported", d.table, what)
}

// statement reads one statement, or up to the first row of the INSERT that is wanted.
func (d *dumpReader) statement() error {
	t, err := d.lex.next(true)
	if err != nil {
		return err
	}
	if t.kind != tokenWord {
		if t.is(";") {
			return nil
		}
		return d.lex.skip()
	}
	switch strings.ToUpper(t.text) {
	case "DELIMITER":
		return d.lex.otherDelimiter()
	case "USE":
		if t, err = d.lex.next(true); err != nil {
			return unexpected(err)
		}
		d.using = t.text
		return d.lex.skip()
	case "CREATE":
		return d.create()
	case "INSERT", "REPLACE":
		return d.insert()
	default:
		return d.lex.skip()
	}
}

// name reads the name of a table, of which first has been read.
func (d *dumpReader) name(first token) (database, table string, next token, err error) {
	database, table = d.using, first.text
	if next, err = d.lex.next(true); err != nil {
		return database, table, next, unexpected(err)
	}
	if next.is(".") {
		t, err := d.lex.next(true)
		if err != nil {
			return database, table, t, unexpected(err)
		}
		database, table = table, t.text
		next, err = d.lex.next(true)
		return database, table, next, unexpected(err)
	}
	return database, table, next, nil
}

// create notes the columns of a table.
func (d *dumpReader) create() error {
	for {
		t, err := d.lex.next(true)
		if err != nil {
			return unexpected(err)
		}
		if t.is(";") {
			return nil
		}
		if t.kind == tokenWord && slices.Contains([]string{"TEMPORARY", "TABLE", "IF", "NOT", "EXISTS", "OR", "REPLACE"}, strings.ToUpper(t.text)) {
			continue
		}
		if t.kind != tokenName && t.kind != tokenWord || slices.Contains([]string{"DATABASE", "SCHEMA", "VIEW", "ALGORITHM", "DEFINER", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT", "INDEX", "UNIQUE", "USER", "SEQUENCE"}, strings.ToUpper(t.text)) && t.kind == tokenWord {
			return d.lex.skip()
		}
		database, table, next, err := d.name(t)
		if err != nil {
			return err
		}
		d.tables[table] = true
		if !next.is("(") {
			if next.is(";") {
				return nil
			}
			return d.lex.skip()
		}
		return d.definitions(database + "." + table)
	}
}

// definitions reads what stands between the brackets of CREATE TABLE, and the rest of it.
func (d *dumpReader) definitions(table string) error {
	var columns []string
	begins := true
	for depth := 1; depth > 0; {
		t, err := d.lex.next(true)
		if err != nil {
			return unexpected(err)
		}
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case begins && t.kind == tokenName:
			columns = append(columns, t.text)
		case begins && t.kind == tokenWord && !slices.Contains([]string{"PRIMARY", "KEY", "UNIQUE", "INDEX", "CONSTRAINT", "FULLTEXT", "SPATIAL", "CHECK", "FOREIGN", "PERIOD"}, strings.ToUpper(t.text)):
			columns = append(columns, t.text)
		}
		begins = depth == 1 && t.is(",")
	}
	d.columns[table] = columns
	return d.lex.skip()
}

// insert reads up to the rows, if they are wanted.
func (d *dumpReader) insert() error {
	var t token
	var err error
	for {
		if t, err = d.lex.next(true); err != nil {
			return unexpected(err)
		}
		if t.kind == tokenWord && slices.Contains([]string{"INTO", "IGNORE", "LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY"}, strings.ToUpper(t.text)) {
			continue
		}
		break
	}
	if t.kind != tokenName && t.kind != tokenWord {
		return d.lex.skip()
	}
	database, table, next, err := d.name(t)
	if err != nil {
		return err
	}
	d.tables[table] = true
	if !strings.EqualFold(table, d.table) || d.database != "" && !strings.EqualFold(database, d.database) {
		if next.is(";") {
			return nil
		}
		return d.lex.skip()
	}
	if d.taken && database != d.found {
		return fault(d.lex.line, "there are several tables %s, in the databases %q and %q; name the one that is meant as database.table", d.table, d.found, database)
	}
	columns := d.columns[database+"."+table]
	if next.is("(") {
		columns = nil
		for {
			if t, err = d.lex.next(true); err != nil {
				return unexpected(err)
			}
			if t.is(")") {
				break
			}
			if !t.is(",") {
				columns = append(columns, t.text)
			}
		}
		if next, err = d.lex.next(true); err != nil {
			return unexpected(err)
		}
	}
	if next.kind != tokenWord || !strings.EqualFold(next.text, "VALUES") && !strings.EqualFold(next.text, "VALUE") {
		return fault(d.lex.line, "the rows of %s are not given by VALUES", d.table)
	}
	if err := d.place(columns); err != nil {
		return err
	}
	d.taken, d.found, d.inside = true, database, true
	return nil
}

// place finds the two columns.
func (d *dumpReader) place(columns []string) error {
	if columns == nil { // nothing says what they are; the original's table has two
		columns = []string{d.timeColumn, d.field}
	}
	at := func(name string) int {
		return slices.IndexFunc(columns, func(c string) bool { return strings.EqualFold(c, name) })
	}
	d.timeAt, d.fieldAt, d.width = at(d.timeColumn), at(d.field), len(columns)
	if d.fieldAt < 0 && len(columns) == 2 && d.timeAt >= 0 {
		d.fieldAt = 1 - d.timeAt // the field is to be called otherwise than the column
	}
	if d.timeAt < 0 || d.fieldAt < 0 {
		return fault(d.lex.line, "the table %s has no columns %s and %s; it has %s", d.table, d.timeColumn, d.field, strings.Join(columns, ", "))
	}
	return nil
}

// tuple reads one row of VALUES and what stands behind it.
func (d *dumpReader) tuple(row *Row) error {
	t, err := d.lex.next(true)
	if err != nil {
		return unexpected(err)
	}
	line := d.lex.line
	if !t.is("(") {
		return fault(line, "a row of %s does not begin with a bracket", d.table)
	}
	var at, value sqlValue
	n := 0
	for {
		v, end, err := d.value()
		if err != nil {
			return err
		}
		switch n {
		case d.timeAt:
			at = v
		case d.fieldAt:
			value = v
		}
		n++
		if end {
			break
		}
	}
	if t, err = d.lex.next(true); err != nil {
		return unexpected(err)
	}
	switch {
	case t.is(","):
	case t.is(";"):
		d.inside = false
	case t.kind == tokenWord: // ON DUPLICATE KEY UPDATE
		d.inside = false
		if err := d.lex.skip(); err != nil {
			return err
		}
	default:
		return fault(d.lex.line, "%q stands behind a row of %s", cutShort(t.text), d.table)
	}
	if n != d.width {
		return refuse(line, d.device, "the row has %d values, but there are %d columns", n, d.width)
	}
	return d.take(line, at, value, row)
}

func (d *dumpReader) take(line int64, at, value sqlValue, row *Row) error {
	switch {
	case !at.plain:
		return refuse(line, d.device, "the time is no plain value")
	case !value.plain:
		return refuse(line, d.device, "%s is NULL or no plain value", d.field)
	case !utf8.ValidString(value.text):
		return refuse(line, d.device, "%s is not valid UTF-8", d.field)
	}
	micros, err := d.clock.parse(at.text)
	if err != nil {
		return refuse(line, d.device, "%s", err)
	}
	b := append(wire.AppendString([]byte{'{'}, d.field), ':')
	*row = Row{Line: line, Device: d.device, Time: micros, Object: append(appendCell(b, value.text), '}')}
	return nil
}

// sqlValue is a value of a row; one that is not plain is NULL or an expression.
type sqlValue struct {
	text  string
	plain bool
}

// value reads one value and the comma or bracket behind it; end says it was the bracket.
func (d *dumpReader) value() (v sqlValue, end bool, err error) {
	sign := ""
	for n, depth := 0, 0; ; n++ {
		t, err := d.lex.next(true)
		if err != nil {
			return v, false, unexpected(err)
		}
		switch {
		case depth == 0 && (t.is(",") || t.is(")")):
			return v, t.is(")"), nil
		case t.is("("):
			depth++
			v.plain = false
		case t.is(")"):
			depth--
		case t.is(";"):
			return v, false, fault(d.lex.line, "a row of %s is not closed", d.table)
		case n == 0 && (t.is("-") || t.is("+")):
			sign = strings.TrimPrefix(t.text, "+")
			n--
		case n == 0 && t.kind == tokenString:
			v = sqlValue{t.text, true}
		case n == 0 && t.kind == tokenWord && t.text[0] >= '0' && t.text[0] <= '9':
			v = sqlValue{sign + t.text, true}
		case n == 0 && t.kind == tokenWord && t.text[0] == '_':
			n-- // a character set in front of a string
		default:
			v.plain = false
		}
	}
}
