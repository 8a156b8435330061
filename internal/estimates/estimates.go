// Package estimates shows what a ledger knows of the time and the memory that builds take, and carries it
// from one farm to another, as a file of JSON lines: the first says what the file is, each other
// one has the samples of one package for one system.
//
// A file says what a farm builds, and how fast; names of machines are left out unless they are asked for.
// Files from elsewhere are not trusted: they are bounded, each value is checked, and what comes
// from them counts less than what was measured here.
package estimates

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"lighter/internal/api"
	"lighter/internal/jsonerror"
	"lighter/internal/ledger"
	"lighter/scheduler/estimate"
)

const (
	// Format and Version are in the first line of a file.
	Format  = "lighter-estimates"
	Version = 1

	// MaxLine bounds a line of a file, in bytes, and MaxPackages its lines.
	MaxLine     = 64 << 10
	MaxPackages = 200_000
	// Portion is how many packages are imported at once.
	Portion = 500
)

type header struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Written time.Time `json:"written,omitzero"`
}

// line has the samples of one package.
type line struct {
	Kind        estimate.Kind     `json:"kind"`
	Name        string            `json:"name"`
	System      string            `json:"system"`
	BuildSystem string            `json:"buildSystem,omitempty"`
	Samples     []estimate.Sample `json:"samples"`
}

// Writer writes a file.
type Writer struct {
	enc      *json.Encoder
	machines bool
}

// NewWriter writes the first line. With machines, samples have the names of machines.
func NewWriter(w io.Writer, written time.Time, machines bool) (*Writer, error) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &Writer{enc, machines}, enc.Encode(header{Format, Version, written})
}

// Write writes the samples of one package.
func (w *Writer) Write(s *ledger.Samples) error {
	l := line{s.Key.Kind, s.Key.Name, s.Key.System, s.Key.BuildSystem, slices.Clone(s.Samples)}
	if !w.machines {
		for i := range l.Samples {
			l.Samples[i].Machine = ""
		}
	}
	return w.enc.Encode(l)
}

// Export writes all samples of a ledger.
func Export(ctx context.Context, l *ledger.Ledger, to io.Writer, machines bool) error {
	buffered := bufio.NewWriterSize(to, 64<<10)
	w, err := NewWriter(buffered, time.Now().UTC().Truncate(time.Second), machines)
	if err == nil {
		err = l.AllSamples(ctx, w.Write)
	}
	return errors.Join(err, buffered.Flush())
}

// Read reads a file, all of it. The error names the line in which something is wrong.
func Read(r io.Reader) ([]ledger.Samples, error) {
	in := bufio.NewReaderSize(r, MaxLine)
	var found []ledger.Samples
	for n := 1; ; n++ {
		text, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("line %d is longer than %d bytes", n, MaxLine)
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case err != nil && len(text) == 0 && n > 1:
			return found, nil
		}
		text = bytes.TrimSpace(text)
		switch {
		case n == 1:
			err = readHeader(text)
		case len(text) == 0:
			err = nil
		case len(found) == MaxPackages:
			err = fmt.Errorf("more than %d packages", MaxPackages)
		default:
			var s ledger.Samples
			if s, err = readLine(text); err == nil {
				found = append(found, s)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
}

func readHeader(text []byte) error {
	var h header
	if err := decode(text, &h); err != nil || h.Format != Format {
		return fmt.Errorf(`this is no file of estimates: it would begin with {"format":"%s","version":%d}; "lighter estimates export" writes one`, Format, Version)
	}
	if h.Version != Version {
		return fmt.Errorf("the file has version %d, and this lighter reads version %d", h.Version, Version)
	}
	return nil
}

func readLine(text []byte) (ledger.Samples, error) {
	var l line
	if err := decode(text, &l); err != nil {
		return ledger.Samples{}, err
	}
	s := ledger.Samples{Key: estimate.Key{Kind: l.Kind, Name: l.Name, System: l.System, BuildSystem: l.BuildSystem}, Samples: l.Samples}
	if len(s.Samples) == 0 {
		return s, errors.New("no samples")
	}
	for i := range s.Samples {
		x := &s.Samples[i]
		x.Imported, x.Machine = true, ""
		if max(int64(x.Duration), int64(x.CPU), x.Memory, x.Disk, x.Output) <= 0 {
			return s, fmt.Errorf("sample %d has nothing that was measured", i+1)
		}
	}
	return s, s.Check()
}

// decode decodes one JSON object with known fields, and nothing behind it.
func decode(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return jsonerror.Explain(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON object")
	}
	return nil
}

// Import adds samples to a ledger.
func Import(ctx context.Context, l *ledger.Ledger, all []ledger.Samples) (*api.ImportedSamples, error) {
	done := new(api.ImportedSamples)
	for portion := range slices.Chunk(all, Portion) {
		changes := make([]ledger.Change, len(portion))
		samples := 0
		for i := range portion {
			changes[i].Samples = &portion[i]
			samples += len(portion[i].Samples)
		}
		if _, err := l.Apply(ctx, changes, true); err != nil {
			return done, err
		}
		done.Packages += len(portion)
		done.Samples += samples
	}
	return done, nil
}

// List returns the estimates of packages whose names, or names with a version, match a pattern as of path.Match; an
// empty one matches all. Where the pattern is a name that nothing was measured of, it says what would be assumed. The
// ledger may be nil: then nothing was measured.
func List(ctx context.Context, l *ledger.Ledger, pattern string) (*api.EstimateList, error) {
	if err := CheckPattern(pattern); err != nil {
		return nil, err
	}
	list := &api.EstimateList{Estimates: []api.Estimate{}}
	systems := make(map[string]bool)
	var found []*ledger.Samples
	err := allSamples(ctx, l, func(s *ledger.Samples) error {
		systems[s.Key.System] = true
		s.Key.Version = s.Samples[0].Version
		switch {
		case !matches(pattern, &s.Key):
		case len(found) == api.MaxEstimates:
			list.Left++
		default:
			found = append(found, s)
		}
		return nil
	})
	for _, s := range found {
		if err != nil {
			break
		}
		var e estimate.Estimate
		e, err = estimateOf(ctx, l, s.Key)
		list.Estimates = append(list.Estimates, row(&s.Key, s.Samples, &e))
	}
	if err == nil && len(list.Estimates) == 0 && pattern != "" && !strings.ContainsAny(pattern, `*?[\`) {
		err = assume(ctx, l, list, pattern, systems)
	}
	slices.SortStableFunc(list.Estimates, func(a, b api.Estimate) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.System, b.System), cmp.Compare(a.Kind, b.Kind))
	})
	return list, err
}

// CheckPattern returns what is wrong with a pattern, or nil.
func CheckPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("pattern %q: a [ has no ], or a \\ nothing behind it", pattern)
	}
	return nil
}

func allSamples(ctx context.Context, l *ledger.Ledger, fn func(*ledger.Samples) error) error {
	if l == nil {
		return nil
	}
	return l.AllSamples(ctx, fn)
}

func estimateOf(ctx context.Context, l *ledger.Ledger, k estimate.Key) (estimate.Estimate, error) {
	if l == nil {
		return estimate.Of(k, nil, nil, nil), nil
	}
	return l.Estimate(ctx, k)
}

// assume lists what would be assumed of a package that was never measured.
func assume(ctx context.Context, l *ledger.Ledger, list *api.EstimateList, name string, systems map[string]bool) error {
	if len(systems) == 0 {
		systems = map[string]bool{"": true}
	}
	for system := range systems {
		k := estimate.KeyOf(estimate.Build{Name: name, System: system})
		e, err := estimateOf(ctx, l, k)
		if err != nil {
			return err
		}
		list.Estimates = append(list.Estimates, row(&k, nil, &e))
	}
	return nil
}

func matches(pattern string, k *estimate.Key) bool {
	for _, name := range []string{k.Name, k.Name + "-" + k.Version} {
		if ok, _ := path.Match(pattern, name); ok || pattern == "" {
			return true
		}
	}
	return false
}

func row(k *estimate.Key, samples []estimate.Sample, e *estimate.Estimate) api.Estimate {
	r := api.Estimate{
		Kind: string(k.Kind), Name: k.Name, System: k.System, Version: k.Version, BuildSystem: k.BuildSystem, Samples: len(samples),
		Duration: rangeOf(e.Duration, float64(time.Second)), CPU: rangeOf(e.CPU, float64(time.Second)),
		Memory: rangeOf(e.Memory, 1), Disk: rangeOf(e.Disk, 1), Output: rangeOf(e.Output, 1),
	}
	for i := range samples {
		if samples[i].Imported {
			r.Imported++
		}
	}
	return r
}

// rangeOf tells a distribution, in units of so much.
func rangeOf[T ~int64](d estimate.Dist[T], unit float64) api.Range {
	low, high := d.Interval()
	return api.Range{Middle: float64(d.Middle()) / unit, Low: float64(low) / unit, High: float64(high) / unit, From: d.Known().String()}
}
