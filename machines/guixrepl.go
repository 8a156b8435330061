package machines

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"lighter/internal/tomlfile"
	"lighter/machines/scheme"
)

// guixScript has Guix read a machines file and print what it read.
//
//go:embed guixrepl.scm
var guixScript []byte

// readWithGuix has the guix program read a file of which ParseGuix said absent, an error
// that matches *scheme.Unsupported.
func readWithGuix(ctx context.Context, file string, data []byte, opts Options, absent error) ([]Machine, []*Error, error) {
	if opts.Guix == "" {
		return nil, nil, absent
	}
	first := *absent.(Errors)[0] //nolint:errorlint // what ParseGuix returns
	d := newDecoder(file, data, Guix)
	records, notes, err := d.runGuix(ctx, file, opts)
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("%s repl: read %s: %w", opts.Guix, file, context.Cause(ctx))
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		first.Hint = fmt.Sprintf("there is no program %q to ask\n    %s", opts.Guix, first.Hint)
		return nil, nil, Errors{&first}
	case err != nil:
		first.Hint = fmt.Sprintf("%q was asked, and failed: %v", opts.Guix+" repl", err)
		return nil, nil, Errors{&first}
	}
	if notes != "" {
		d.Warnf(0, "", "%s repl says: %s", opts.Guix, notes)
	}
	return d.guixMachines(records)
}

// The most that the guix program may print, in bytes: on standard output, and of its
// messages.
const (
	maxGuixOutput   = 4 * tomlfile.MaxSize
	maxGuixMessages = 8 << 10
)

// runGuix returns the machines that Guix reads from the file, and what it says about
// them.
func (d *decoder) runGuix(ctx context.Context, file string, opts Options) (records []*scheme.Record, notes string, err error) {
	name, err := filepath.Abs(file)
	if err != nil {
		return nil, "", err
	}
	script, err := writeGuixScript()
	if err != nil {
		return nil, "", err
	}
	defer os.Remove(script)
	limit := opts.GuixTimeout
	if limit <= 0 {
		limit = DefaultGuixTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, opts.Guix, "repl", "-q", "--", script, name) // #nosec G204 -- the caller's program
	out, messages := &bounded{most: maxGuixOutput}, &bounded{most: maxGuixMessages}
	cmd.Stdout, cmd.Stderr = out, messages
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	notes = guixMessages(messages.String())
	switch {
	case ctx.Err() != nil:
		return nil, "", fmt.Errorf("it did not end within %s%s", limit, colon(notes))
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return nil, "", fmt.Errorf("%w: %s", exec.ErrNotFound, opts.Guix)
	case err != nil:
		return nil, "", fmt.Errorf("%w%s", err, colon(notes))
	case out.cut:
		return nil, "", fmt.Errorf("it printed more than %d bytes", maxGuixOutput)
	}
	records, err = d.guixOutput(out.String(), name)
	return records, notes, err
}

func colon(text string) string {
	if text == "" {
		return ""
	}
	return ":\n    " + strings.ReplaceAll(text, "\n", "\n    ")
}

// guixMessages drops what a person needs not know.
func guixMessages(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, ";;;") && !strings.HasPrefix(line, "GC Warning") {
			kept = append(kept, line)
		}
	}
	return strings.TrimSpace(strings.Join(kept, "\n"))
}

func writeGuixScript() (name string, err error) {
	f, err := os.CreateTemp("", "lighter-machines-*.scm")
	if err != nil {
		return "", err
	}
	_, err = f.Write(guixScript)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// bounded keeps the first bytes that are written to it, and takes all.
type bounded struct {
	bytes.Buffer
	most int
	cut  bool
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := min(len(p), b.most-b.Len())
	b.cut = b.cut || keep < len(p)
	b.Buffer.Write(p[:keep])
	return len(p), nil
}

// guixOutput reads what guixScript printed for the file.
func (d *decoder) guixOutput(text, file string) ([]*scheme.Record, error) {
	data, err := scheme.Read(text, scheme.Limits{Nodes: maxGuixOutput / 8})
	if err != nil {
		return nil, fmt.Errorf("what it printed can't be read: %w", err)
	}
	if len(data) == 0 || data[len(data)-1] != scheme.Value(scheme.Symbol("END")) {
		return nil, errors.New("it ended early")
	}
	var records []*scheme.Record
	for _, v := range data[:len(data)-1] {
		fields, ok := scheme.List(v)
		if !ok {
			return nil, fmt.Errorf("it printed %s, which is not a machine", valueText(v))
		}
		r := &scheme.Record{Type: guixMachine, Fields: make(map[string]scheme.Field)}
		for _, f := range fields {
			pair, _ := scheme.List(f)
			if len(pair) != 2 {
				return nil, fmt.Errorf("it printed %s, which is not a field", valueText(f))
			}
			name, _ := pair[0].(scheme.Symbol)
			if name == "location" {
				r.At = d.guixPlace(pair[1], file)
			} else if !isGuixDefault(string(name), pair[1]) {
				r.Fields[string(name)] = scheme.Field{Value: pair[1], Given: true}
			}
		}
		for name, f := range r.Fields {
			f.At, f.Name = r.At, r.At
			r.Fields[name] = f
		}
		withoutPlaces(r)
		records = append(records, r)
	}
	return records, nil
}

// withoutPlaces forgets where strings stood in the output.
func withoutPlaces(r *scheme.Record) {
	var forget func(v scheme.Value)
	forget = func(v scheme.Value) {
		switch x := v.(type) {
		case *scheme.String:
			x.At = -1
		case *scheme.Pair:
			elems, _ := scheme.List(x)
			for _, e := range elems {
				forget(e)
			}
		}
	}
	for _, f := range r.Fields {
		forget(f.Value)
	}
}

// guixPlace turns (FILE LINE COLUMN), the column counted from 0, into a byte offset in
// the document; 0 for another file.
func (d *decoder) guixPlace(v scheme.Value, file string) int {
	place, _ := scheme.List(v)
	if len(place) != 3 {
		return 0
	}
	name, _ := place[0].(*scheme.String)
	line, isLine := place[1].(*big.Rat)
	column, isColumn := place[2].(*big.Rat)
	if name == nil || !isLine || !isColumn || filepath.Base(name.Text) != filepath.Base(file) {
		return 0
	}
	offset := 0
	for n := line.Num().Int64(); n > 1; n-- {
		i := strings.IndexByte(d.Doc[offset:], '\n')
		if i < 0 {
			return 0
		}
		offset += i + 1
	}
	return min(offset+int(max(column.Num().Int64(), 0)), len(d.Doc))
}

// isGuixDefault reports whether a field has the value that Guix gives one that the file
// does not name, if that makes a difference here.
func isGuixDefault(name string, v scheme.Value) bool {
	text := ""
	if s, ok := v.(*scheme.String); ok {
		text = s.Text
	}
	switch name {
	case "systems", "system":
		return v == scheme.Value(false)
	case "private-key":
		return text != "" && text == os.Getenv("HOME")+"/.ssh/id_rsa"
	case "compression":
		return text == "zlib@openssh.com,zlib"
	case "compression-level":
		f, ok := scheme.Float(v)
		return ok && f == 3
	}
	return false
}
