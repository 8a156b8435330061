package derivation

import "strings"

// The options below are entries of the environment to which guix-daemon gives a
// meaning (DerivationGoal in libstore; "Derivations" in the Guix manual).

// RequiredFeatures returns the features that a machine must have to build this,
// such as "kvm" (option requiredSystemFeatures).
func (d *Derivation) RequiredFeatures() []string { return d.words("requiredSystemFeatures") }

// SubstitutesAllowed reports whether the outputs may be downloaded instead of
// built (option allowSubstitutes, which is on unless set to something else than 1).
func (d *Derivation) SubstitutesAllowed() bool { return d.flag("allowSubstitutes", true) }

// ImpureEnvVars returns the variables that the builder of a fixed-output
// derivation takes from the environment that it is built in, such as
// "http_proxy" (option impureEnvVars). guix-daemon ignores the option in others.
func (d *Derivation) ImpureEnvVars() []string {
	if _, fixed := d.FixedOutput(); !fixed {
		return nil
	}
	return d.words("impureEnvVars")
}

// ReferenceRule is an option that bounds what outputs may refer to. Its words are
// store paths and names of outputs.
type ReferenceRule string

// The rules. Requisites are the whole closure, references just its first step.
const (
	AllowedReferences    ReferenceRule = "allowedReferences"
	AllowedRequisites    ReferenceRule = "allowedRequisites"
	DisallowedReferences ReferenceRule = "disallowedReferences"
	DisallowedRequisites ReferenceRule = "disallowedRequisites"
)

// ReferenceRule returns the words of a rule, and whether the derivation has it: an
// empty AllowedReferences allows none at all.
func (d *Derivation) ReferenceRule(rule ReferenceRule) (words []string, ok bool) {
	_, ok = d.Getenv(string(rule))
	return d.words(string(rule)), ok
}

// ReferencesGraph returns the words of the option exportReferencesGraph: in turn
// the name of a file that the builder finds in its folder, and the item whose
// closure it lists.
func (d *Derivation) ReferencesGraph() []string { return d.words("exportReferencesGraph") }

// IsBuiltin reports whether the builder is code of the store itself, and returns
// its name: "download" for "builtin:download".
func (d *Derivation) IsBuiltin() (string, bool) { return strings.CutPrefix(d.Builder, "builtin:") }

// words splits as libstore's tokenizeString does, at blanks.
func (d *Derivation) words(name string) []string {
	value, ok := d.Getenv(name)
	if !ok {
		return nil
	}
	return strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(" \t\n\r", r) })
}

func (d *Derivation) flag(name string, unset bool) bool {
	value, ok := d.Getenv(name)
	if !ok {
		return unset
	}
	return value == "1"
}
