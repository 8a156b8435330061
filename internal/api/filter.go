package api

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"lighter/store"
)

// Values writes the filter as the query of GET /v1/builds.
func (f *Filter) Values() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Add(name, value)
		}
	}
	for _, s := range f.States {
		set("state", string(s))
	}
	set("derivation", string(f.Derivation))
	set("name", f.Name)
	set("system", f.System)
	set("machine", f.Machine)
	set("user", f.User)
	for k, v := range f.Tags {
		set("tag", k+"="+v)
	}
	for k, v := range f.NotTags {
		set("not-tag", k+"="+v)
	}
	if !f.Since.IsZero() {
		set("since", f.Since.Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		set("until", f.Until.Format(time.RFC3339Nano))
	}
	return q
}

// filterNames are the names that Values writes.
var filterNames = []string{"state", "derivation", "name", "system", "machine", "user", "tag", "not-tag", "since", "until"}

// ParseFilter reads what Values writes. Names besides those of a filter and of others
// are an error.
func ParseFilter(q url.Values, others ...string) (*Filter, error) {
	for name := range q {
		if !slices.Contains(filterNames, name) && !slices.Contains(others, name) {
			return nil, fmt.Errorf("%q is not a filter: there are %s", name, strings.Join(append(slices.Clone(filterNames), others...), ", "))
		}
	}
	f := &Filter{Name: q.Get("name"), System: q.Get("system"), Machine: q.Get("machine"), User: q.Get("user")}
	for _, s := range q["state"] {
		f.States = append(f.States, State(s))
	}
	var err error
	if f.Tags, err = parseTags(q["tag"]); err != nil {
		return nil, err
	}
	if f.NotTags, err = parseTags(q["not-tag"]); err != nil {
		return nil, err
	}
	if s := q.Get("derivation"); s != "" {
		if f.Derivation, err = store.ParsePath(s); err != nil {
			return nil, fmt.Errorf("derivation: %w", err)
		}
	}
	if f.Since, err = parseTime(q, "since"); err != nil {
		return nil, err
	}
	if f.Until, err = parseTime(q, "until"); err != nil {
		return nil, err
	}
	return f, f.Check()
}

// Check says what is wrong with a filter.
func (f *Filter) Check() error {
	if len(f.States) > len(States()) {
		return fmt.Errorf("%d states, there are %v", len(f.States), States())
	}
	for _, s := range f.States {
		if !slices.Contains(States(), s) {
			return fmt.Errorf("state %q: there are %v", s, States())
		}
	}
	if star := strings.IndexByte(f.Name, '*'); star >= 0 && star != len(f.Name)-1 {
		return fmt.Errorf("name %q: a * may come only at the end", f.Name)
	}
	for _, of := range []struct {
		what, text string
		most       int
	}{
		{"derivation", string(f.Derivation), MaxPath},
		{"name", f.Name, MaxName},
		{"system", f.System, MaxName},
		{"machine", f.Machine, MaxName},
		{"user", f.User, MaxName},
	} {
		if err := CheckText(of.what, of.text, of.most); err != nil {
			return err
		}
	}
	if err := CheckTags(f.Tags); err != nil {
		return err
	}
	return CheckTags(f.NotTags)
}

func parseTags(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	tags := make(map[string]string, len(list))
	for _, tag := range list {
		k, v, ok := strings.Cut(tag, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("tag %q: want NAME=VALUE, or NAME= for any value", tag)
		}
		tags[k] = v
	}
	return tags, nil
}

func parseTime(q url.Values, name string) (time.Time, error) {
	s := q.Get(name)
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %q: want a time such as 2006-01-02T15:04:05Z", name, s)
	}
	return t, nil
}

// Matches reports whether the filter selects a build.
func (f *Filter) Matches(b *Build) bool {
	for key, value := range f.Tags {
		if found, ok := b.Tags[key]; !ok || value != "" && found != value {
			return false
		}
	}
	for key, value := range f.NotTags {
		if found, ok := b.Tags[key]; ok && (value == "" || found == value) {
			return false
		}
	}
	return (len(f.States) == 0 || slices.Contains(f.States, b.State)) &&
		(f.Derivation == "" || f.Derivation == b.Derivation) &&
		(f.Name == "" || f.matchesName(DerivationName(b.Derivation))) &&
		(f.System == "" || f.System == b.System) &&
		(f.Machine == "" || f.Machine == b.Machine) &&
		(f.User == "" || slices.Contains(b.Submitter.Names(), f.User)) &&
		!b.Submitted.Before(f.Since) &&
		(f.Until.IsZero() || b.Submitted.Before(f.Until))
}

func (f *Filter) matchesName(name string) bool {
	if prefix, ok := strings.CutSuffix(f.Name, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return name == f.Name
}

// DerivationName returns the name of a derivation without folder, hash and ".drv", such
// as "hello-2.12".
func DerivationName(p store.Path) string { return strings.TrimSuffix(p.Name(), ".drv") }
