package conduct

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"lighter/internal/api"
)

// Setting is what operators decided about a machine.
type Setting struct {
	Draining    bool   `json:"draining,omitempty"`
	DrainedBy   string `json:"drainedBy,omitempty"` // empty if that is not known
	DrainReason string `json:"drainReason,omitempty"`
	// Tags are those that operators set; Untagged, tags of the file that they removed.
	Tags     map[string]string `json:"tags,omitempty"`
	Untagged []string          `json:"untagged,omitempty"`
}

// Drained says why a machine that is drained gets no builds.
func (s *Setting) Drained() string {
	if s.DrainedBy == "" {
		return Done("draining", "", s.DrainReason)
	}
	return Done("drained", s.DrainedBy, s.DrainReason)
}

// Clone returns a copy that shares nothing.
func (s Setting) Clone() Setting {
	s.Tags, s.Untagged = maps.Clone(s.Tags), slices.Clone(s.Untagged)
	return s
}

// AllTags returns the tags of a machine that has some in the machines file.
func (s *Setting) AllTags(inFile map[string]string) map[string]string {
	tags := maps.Clone(inFile)
	for _, name := range s.Untagged {
		delete(tags, name)
	}
	if tags == nil && len(s.Tags) > 0 {
		tags = make(map[string]string)
	}
	maps.Copy(tags, s.Tags)
	return tags
}

// errTooManyTags is why tags can't be added.
var errTooManyTags = errors.New("too many tags")

// Retag changes the tags, and says what it did. If there would be more than api.MaxTags it changes
// nothing.
func (s *Setting) Retag(inFile map[string]string, change *api.TagChange) (did string, err error) {
	next := s.Clone()
	var all []string
	for _, name := range change.Remove {
		delete(next.Tags, name)
		if _, filed := inFile[name]; filed && !slices.Contains(next.Untagged, name) {
			next.Untagged = append(next.Untagged, name)
		}
		all = append(all, "without "+name)
	}
	for _, name := range slices.Sorted(maps.Keys(change.Set)) {
		if next.Tags == nil {
			next.Tags = make(map[string]string)
		}
		next.Tags[name] = change.Set[name]
		next.Untagged = slices.DeleteFunc(next.Untagged, func(x string) bool { return x == name })
		all = append(all, name+"="+change.Set[name])
	}
	if len(next.Tags) > api.MaxTags || len(next.Untagged) > api.MaxTags {
		return "", errTooManyTags
	}
	*s = next
	return strings.Join(all, ", "), nil
}
