"""Expand a template as AWS does, without AWS: run by the SAM CLI's own Python, which has the translator.

Standard input is `[template, [parameters, …]]`, standard output one expanded template for each set of parameters.
"""

import json
import logging
import os
import sys
from copy import deepcopy

os.environ["AWS_DEFAULT_REGION"] = "eu-west-1"  # else it asks boto3 for one

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

logging.disable()
template, cases = json.load(sys.stdin)
# No managed policies: the template names none, so none is looked up.
json.dump([Translator({}, Parser()).translate(deepcopy(template), case) for case in cases], sys.stdout)
