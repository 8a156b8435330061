;; lighter gives this program to "guix repl", with the name of a machines file as its
;; argument. It has Guix read the file, and prints each machine as one datum
;; ((FIELD VALUE) …) on standard output, and END after the last one. What the file
;; itself prints goes to standard error.

(use-modules (ice-9 match))

(define offload
  (resolve-module '(guix scripts offload)))

(define (file->machines file)
  (parameterize ((current-output-port (current-error-port)))
    ((module-ref offload 'build-machines) file)))

(define (plain value machine)
  (cond ((procedure? value) (plain (value machine) machine)) ;a thunked field
        ((or (string? value) (number? value) (boolean? value) (symbol? value)) value)
        ((list? value) (map (lambda (value) (plain value machine)) value))
        (else (object->string value))))

(define (place location)
  (and location
       (let ((type (record-type-descriptor location)))
         (map (lambda (field)
                ((record-accessor type field) location))
              '(file line column)))))

(define (machine->datum machine)
  (let ((type (record-type-descriptor machine)))
    (map (lambda (field)
           (let ((value ((record-accessor type field) machine)))
             (list field (if (eq? field 'location)
                             (place value)
                             (plain value machine)))))
         (record-type-fields type))))

(match (command-line)
  ((_ file)
   (let ((machines (map machine->datum (file->machines file))))
     (set-port-encoding! (current-output-port) "UTF-8")
     (for-each (lambda (machine)
                 (write machine)
                 (newline))
               machines)
     (write 'END)
     (newline))))
