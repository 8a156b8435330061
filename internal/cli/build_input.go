package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"strings"

	"lighter/internal/api"
	"lighter/store"
	"lighter/store/local"
)

// maxInputLine bounds a line of standard input, in bytes.
const maxInputLine = 1 << 20

// inputReader makes requests of the arguments and lines of "lighter build".
type inputReader struct {
	inv      *invocation
	folders  folders
	base     *api.Request // what the flags say
	onlyJSON bool
	// supersede names the tag that no line may change, nor the other tags of the flags.
	supersede bool

	requests []api.Request
	seen     map[store.Path]bool // derivations that were named without options
	store    *local.Store        // opened when the first file is to be added
}

// read makes the requests; derivations that are named twice count once. Files that are in
// no store are added to the head's.
func (r *inputReader) read(ctx context.Context) (_ []api.Request, err error) {
	r.seen = make(map[store.Path]bool)
	defer func() {
		if r.store != nil {
			err = errors.Join(err, r.store.Close())
		}
	}()
	for _, arg := range r.inv.args {
		if arg == "-" {
			err = r.readLines(ctx)
		} else {
			err = r.plain(ctx, arg)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(r.requests) == 0 {
		return nil, usageErrorf("%s: standard input names no derivation", r.inv.flags.Name())
	}
	return r.requests, nil
}

// readLines reads standard input.
func (r *inputReader) readLines(ctx context.Context) error {
	lines := bufio.NewScanner(r.inv.In)
	lines.Buffer(nil, maxInputLine)
	n := 0
	for lines.Scan() {
		n++
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := r.line(ctx, bytes.TrimSpace(lines.Bytes())); err != nil {
			return fmt.Errorf("standard input, line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("standard input, line %d: %w", n+1, err)
	}
	return nil
}

func (r *inputReader) line(ctx context.Context, line []byte) error {
	switch {
	case len(line) == 0:
		return nil
	case line[0] == '{':
		return r.object(ctx, line)
	case r.onlyJSON:
		return badInput(fmt.Errorf("%.60q is no JSON object, as --json-input wants", line))
	}
	return r.plain(ctx, string(line))
}

// plain takes a derivation for which the flags say all.
func (r *inputReader) plain(ctx context.Context, arg string) error {
	path, err := r.derivation(ctx, arg)
	if err != nil || r.seen[path] {
		return err
	}
	r.seen[path] = true
	request := *r.base
	request.Derivation = path
	r.requests = append(r.requests, request)
	return nil
}

// requestLine is a request whose derivation may be a file.
type requestLine struct {
	api.Request
	Derivation string `json:"derivation"`
}

// object takes a JSON object; what it does not say the flags do.
func (r *inputReader) object(ctx context.Context, text []byte) error {
	one := requestLine{Request: *r.base}
	one.Tags = maps.Clone(r.base.Tags) // which the decoder adds to
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&one); err != nil {
		return badInput(errors.New(strings.TrimPrefix(err.Error(), "json: ")))
	}
	if _, err := d.Token(); err != io.EOF {
		return badInput(errors.New("there is more after the JSON object"))
	}
	if one.Derivation == "" {
		return badInput(errors.New(`the JSON object has no "derivation"`))
	}
	if one.Offload {
		return badInput(errors.New(`"offload" is for build hooks alone`))
	}
	if err := checkRequest(&one.Request); err != nil {
		return badInput(err)
	}
	for k, v := range r.base.Tags {
		if r.supersede && one.Tags[k] != v {
			return badInput(fmt.Errorf("tag %s is %q here and %q in the flags, by which --supersede goes", k, one.Tags[k], v))
		}
	}
	path, err := r.derivation(ctx, one.Derivation)
	if err != nil {
		return err
	}
	one.Request.Derivation = path
	r.requests = append(r.requests, one.Request)
	return nil
}

// derivation returns the path of a derivation that is named by path or file. Whether a
// path is in the store is the coordinator's to find out: it may fetch it.
func (r *inputReader) derivation(ctx context.Context, arg string) (store.Path, error) {
	path, err := store.DefaultDir.ParsePath(filepath.Clean(arg))
	if err == nil {
		if !path.IsDerivation() {
			return "", &exitError{exitUsage, fmt.Errorf("%s: no derivation; its name does not end in .drv", path)}
		}
		return path, nil
	}
	if r.store == nil {
		if r.store, err = openStore(r.folders, nil, slog.New(slog.DiscardHandler)); err != nil {
			return "", err
		}
	}
	_, d, err := readDerivation(r.store, arg)
	if err != nil {
		return "", err
	}
	name := fileDerivationName(arg)
	if err := d.Check(r.store.Dir(), name, resolver(r.store)); err != nil {
		return "", badInput(fmt.Errorf("%s: %w", arg, err))
	}
	return r.store.AddText(ctx, name+".drv", d.Marshal(), d.References())
}
