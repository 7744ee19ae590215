package chunk_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"signalbox"
	"signalbox/internal/history/chunk"
)

var update = flag.Bool("update", false, "write the golden chunk anew; never for a version that has been released")

// golden is the name of a file: rows, shapes or chunk of one of goldens, of the version of the
// format that it is in.
func golden(name, kind string) string {
	version := 1
	if name == "imported" {
		version = 2
	}
	return filepath.Join("testdata", fmt.Sprintf("version%d-%s.%s", version, name, kind))
}

// goldens are the bodies of the golden chunks: one with every kind of column, which is kept as
// it is, one with text, which is compressed, and one of which some rows were imported.
func goldens() map[string][][]byte {
	var bodies, text [][]byte
	box, sensor := box(1), sensor(1)
	for i := range 70 {
		bodies = append(bodies, box(i), sensor(i))
	}
	cases := columnCases()
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		rng := rand.New(rand.NewPCG(1, 5))
		for i := range 12 {
			bodies = append(bodies, fmt.Appendf(nil, `{"%s":%s}`, name, cases[name](rng, i)))
		}
	}
	bodies = append(bodies, []byte("no object"), []byte("\x00"), nil)
	for i := range 30 {
		text = append(text, fmt.Appendf(nil, `{"message": "connection from 10.0.%d.%d failed", "at": [%d, "2023-07-10T12:00:%02dZ"]}`, i*i%16, i%7, i, i))
	}
	return map[string][][]byte{"columns": bodies, "text": text, "imported": text}
}

// writeGolden makes the files.
func writeGolden(t *testing.T, name string) {
	t.Helper()
	bodies := goldens()[name]
	rows := rowsFor(rand.New(rand.NewPCG(1, 11)), bodies)
	for i := range rows {
		rows[i].Imported = name == "imported" && i%7 > 4
	}
	s := chunk.NewShapes(100)
	blob := chunkOf(t, s, rows)
	var shapes, list []byte
	for _, f := range s.Fresh() {
		shapes = binary.AppendUvarint(shapes, uint64(f.ID))
		shapes = binary.AppendUvarint(shapes, uint64(len(f.Text)))
		shapes = append(shapes, f.Text...)
	}
	for _, row := range sorted(rows) {
		list = binary.AppendUvarint(list, uint64(row.Position))
		list = binary.AppendUvarint(list, uint64(row.Received))
		list = binary.AppendUvarint(list, uint64(row.Time))
		if name == "imported" {
			list = append(list, map[bool]byte{true: 1}[row.Imported])
		}
		list = binary.AppendUvarint(list, uint64(len(row.Body)))
		list = append(list, row.Body...)
	}
	if err := errors.Join(os.WriteFile(golden(name, "chunk"), blob, 0o644), os.WriteFile(golden(name, "shapes"), shapes, 0o644),
		os.WriteFile(golden(name, "rows"), list, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// list reads unsigned varints and texts of a golden file.
type list struct {
	t *testing.T
	b []byte
}

func readGolden(t *testing.T, name, kind string) *list {
	t.Helper()
	b, err := os.ReadFile(golden(name, kind))
	if err != nil {
		t.Fatal(err)
	}
	return &list{t, b}
}

func (l *list) uvarint() uint64 {
	v, n := binary.Uvarint(l.b)
	if n <= 0 {
		l.t.Fatal("a golden file ends early")
	}
	l.b = l.b[n:]
	return v
}

func (l *list) text() []byte {
	n := l.uvarint()
	text := l.b[:n:n]
	l.b = l.b[n:]
	return text
}

// TestGolden reads chunks as the versions of the format were when they were laid down.
func TestGolden(t *testing.T) {
	for _, name := range []string{"columns", "text", "imported"} {
		t.Run(name, func(t *testing.T) {
			if *update {
				writeGolden(t, name)
			}
			s := chunk.NewShapes(100)
			for shapes := readGolden(t, name, "shapes"); len(shapes.b) > 0; {
				if err := s.Load(chunk.ShapeID(shapes.uvarint()), shapes.text()); err != nil {
					t.Fatal(err)
				}
			}
			var rows []chunk.Row
			for l := readGolden(t, name, "rows"); len(l.b) > 0; {
				row := chunk.Row{Position: signalbox.Position(l.uvarint()), Received: int64(l.uvarint()), Time: int64(l.uvarint())}
				if name == "imported" {
					row.Imported = l.uvarint() == 1
				}
				row.Body = l.text()
				rows = append(rows, row)
			}
			checkChunk(t, s, readGolden(t, name, "chunk").b, rows)
		})
	}
}
