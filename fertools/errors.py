"""What goes wrong in a way that a user can mend; the command line shows the message alone."""


class FertoolsError(Exception):
    """The root of the library's own errors."""


class DataError(FertoolsError):
    """A data set is missing, damaged or laid out otherwise; the message says what to do."""


class WeightsError(FertoolsError):
    """A weights file cannot be read, or does not fit the network; the message says where."""


class TrainingError(FertoolsError):
    """Training cannot go on; the message names the step, the cause and what to do."""


class RunError(FertoolsError):
    """There is no such run, or it has not finished."""


class SweepError(FertoolsError):
    """A sweep file asks for what cannot be, or some of its runs failed; the message names them."""


class ExportError(FertoolsError):
    """The exported network would not answer as the trained one does; nothing was written."""


class Interrupted(FertoolsError):
    """Training was asked to stop and left a checkpoint; the same call continues it."""
