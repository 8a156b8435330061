package human

// InputError is that what a person gave is wrong, such as a line or a file, rather than that
// something failed.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }
func (e *InputError) Unwrap() error { return e.Err }
