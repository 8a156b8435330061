// Package dataservice asks a Guix Data Service, such as https://data.guix.gnu.org,
// for the revisions of Guix that it knows and for the derivations of their packages.
//
// It reads only, and only what docs/queue.md lists: a branch's revisions, and a
// revision's package derivations. What the service answers is not trusted: sizes,
// counts and waits have limits, and commits and derivations are checked. An answer
// that another try may better, such as an error of the service, a proxy's page or a
// body that stops in the middle, is asked for again, with growing pauses; that is done
// here and nowhere else.
package dataservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"lighter/internal/stream"
	"lighter/store"
)

// Revision is one commit that a branch pointed to.
type Revision struct {
	Commit string
	Date   string // as the service writes it: "2022-01-31 20:27:11", in UTC
	// Available says that the service has worked out the revision's derivations.
	Available bool
}

// Derivation is one package's, of a revision.
type Derivation struct {
	Path   store.Path
	System string // such as "x86_64-linux"
	Target string // such as "aarch64-linux-gnu"; empty where it is not a cross-build
}

// ErrNotFound matches answers that the service does not have that: of a revision, that
// it does not know it, or has not worked out its derivations.
var ErrNotFound = errors.New("not found")

// Limits on what one answer may have.
const (
	maxRevisions   = 100_000
	maxDerivations = 1_000_000
	maxPages       = 10_000
	maxWord        = 255 // bytes of a date, a system or a target
)

// Revisions returns the newest revisions of a branch, at most limit, the newest first.
// The service numbers its repositories from 1. Of a branch that it does not know it
// answers that there are none.
func (c *Client) Revisions(ctx context.Context, repository int, branch string, limit int) ([]Revision, error) {
	path := fmt.Sprintf("/repository/%d/branch/%s.json", repository, url.PathEscape(branch))
	q := url.Values{"limit_results": {strconv.Itoa(limit)}}
	all, err := list(ctx, c, path, q, "revisions", maxRevisions, parseRevision)
	return all[:min(limit, len(all))], err
}

var commitForm = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// IsCommit reports whether s is the whole id of a commit.
func IsCommit(s string) bool { return commitForm.MatchString(s) }

func parseRevision(text json.RawMessage) (Revision, error) {
	var r struct {
		Date      string `json:"date"`
		Commit    string `json:"commit-hash"`
		Available bool   `json:"data_available"`
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return Revision{}, err
	}
	if !IsCommit(r.Commit) {
		return Revision{}, fmt.Errorf("commit-hash %.80q is not a commit", r.Commit)
	}
	if err := checkWord("date", r.Date); err != nil {
		return Revision{}, err
	}
	return Revision{Commit: r.Commit, Date: r.Date, Available: r.Available}, nil
}

// Derivations returns the package derivations of a revision for a system, page by page,
// in the service's order. They are built natively where target is empty, else for that
// target. The service may name a derivation more than once. The sequence ends with the
// first error; what came before it is good. No answer is open while a page is looked at.
func (c *Client) Derivations(ctx context.Context, commit, system, target string) iter.Seq2[[]Derivation, error] {
	return func(yield func([]Derivation, error) bool) {
		after, left := "", maxDerivations
		seen := make(map[string]bool) // the ends of pages
		for range maxPages {
			page, err := c.page(ctx, commit, system, target, after)
			if err != nil {
				yield(nil, err)
				return
			}
			// A page may be shorter than asked for and not the last: the service may have
			// a limit of its own.
			if left -= len(page); left < 0 {
				yield(nil, fmt.Errorf("derivations of revision %s: more than %d", commit, maxDerivations))
				return
			}
			if len(page) == 0 || !yield(page, nil) {
				return
			}
			after = string(page[len(page)-1].Path)
			if seen[after] {
				yield(nil, fmt.Errorf("derivations of revision %s: the service repeats the page after %s", commit, after))
				return
			}
			seen[after] = true
		}
		yield(nil, fmt.Errorf("derivations of revision %s: more than %d pages", commit, maxPages))
	}
}

// page returns the derivations that follow one in the service's order, which is its
// database's and need not be that of bytes.
func (c *Client) page(ctx context.Context, commit, system, target, after string) ([]Derivation, error) {
	if target == "" {
		target = "none" // without this, all targets are meant
	}
	q := url.Values{
		"system": {system}, "target": {target},
		// Without "builds" among the fields, the service does not look for builds, which is slow.
		"field":         {"system", "target"},
		"limit_results": {strconv.Itoa(c.options.Page)},
	}
	if after != "" {
		q.Set("after_name", after)
	}
	path := "/revision/" + url.PathEscape(commit) + "/package-derivations.json"
	return list(ctx, c, path, q, "derivations", maxDerivations, parseDerivation)
}

func parseDerivation(text json.RawMessage) (Derivation, error) {
	var d struct {
		Derivation string `json:"derivation"`
		System     string `json:"system"`
		Target     string `json:"target"`
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return Derivation{}, err
	}
	p, err := store.ParsePath(d.Derivation)
	if err != nil {
		return Derivation{}, err
	}
	if !p.IsDerivation() {
		return Derivation{}, fmt.Errorf("%.200q is not a derivation", d.Derivation)
	}
	if err := errors.Join(checkWord("system", d.System), checkWord("target", d.Target)); err != nil {
		return Derivation{}, err
	}
	return Derivation{Path: p, System: d.System, Target: d.Target}, nil
}

// checkWord refuses what would be more than a word or two in a line.
func checkWord(what, text string) error {
	if len(text) > maxWord || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%s %.80q: want at most %d bytes of printable text", what, text, maxWord)
	}
	return nil
}

// list reads an answer that is an object with one list among its members.
func list[T any](ctx context.Context, c *Client, path string, q url.Values, name string, limit int,
	parse func(json.RawMessage) (T, error),
) (all []T, err error) {
	err = c.get(ctx, path, q, func(body io.Reader) error {
		all = nil
		return readList(body, name, func(text json.RawMessage) error {
			if len(all) == limit {
				return finalf("more than %d %s", limit, name)
			}
			one, err := parse(text)
			if err != nil {
				return final{err}
			}
			all = append(all, one)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// readList calls each for every element of the list that the member of an object is.
// Members that newer services have besides are ignored. A wrong query gets
// status 200 and an object with just "error".
func readList(body io.Reader, name string, each func(json.RawMessage) error) error {
	tooMuch := finalf("something in it has more than %d bytes", maxElement)
	in := &stream.Allowance{R: body, Left: maxElement, TooMuch: tooMuch}
	d := json.NewDecoder(in)
	if err := delimiter(d, '{'); err != nil {
		return err
	}
	found := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		switch key {
		case name:
			found = true
			if err := readElements(d, in, each); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		case "error":
			var text string
			if err := d.Decode(&text); err != nil {
				return fmt.Errorf("error: %w", err)
			}
			return finalf("the service refuses: %s", printable(summary([]byte(text))))
		default:
			if err := d.Decode(new(json.RawMessage)); err != nil {
				return err
			}
		}
		in.Left = maxElement
	}
	if err := delimiter(d, '}'); err != nil {
		return err
	}
	if !found {
		return finalf("there is no %q in it; is it a Guix Data Service?", name)
	}
	return nil
}

func readElements(d *json.Decoder, in *stream.Allowance, each func(json.RawMessage) error) error {
	if err := delimiter(d, '['); err != nil {
		return err
	}
	for i := 0; d.More(); i++ {
		var text json.RawMessage
		err := d.Decode(&text)
		if err == nil {
			err = each(text)
		}
		if err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		in.Left = maxElement
	}
	return delimiter(d, ']')
}

func delimiter(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	switch {
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case got != want:
		return fmt.Errorf("want %v, got %.40q", want, fmt.Sprint(got))
	}
	return nil
}

// final is an error that another try would not better: the answer arrived whole.
type final struct{ error }

func finalf(format string, args ...any) error { return final{fmt.Errorf(format, args...)} }

func (f final) Unwrap() error { return f.error }

// Error is an answer that was not what was asked for.
type Error struct {
	URL    string
	Status int // HTTP's; 0 if there was no answer
	Err    error
	// After is how long the service wants to be left alone; 0 if it did not say.
	After time.Duration

	again bool // another try may be answered better
}

func (e *Error) Error() string {
	if e.Status == 0 || e.Status == http.StatusOK {
		return fmt.Sprintf("%s: %v", e.URL, e.Err)
	}
	return fmt.Sprintf("%s: status %d: %v", e.URL, e.Status, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is find ErrNotFound.
func (e *Error) Is(target error) bool {
	return target == ErrNotFound && e.Status == http.StatusNotFound
}

// summary makes the start of a text fit into an error, where it is quoted.
func summary(text []byte) string {
	const most = 200
	s := strings.Join(strings.Fields(string(text)), " ")
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}

// printable is for a text that is not quoted.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
