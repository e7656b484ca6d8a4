"""What scikit-learn's logistic regression reaches, and how long it takes, on the features of eval.rs with its penalties.

pip install scikit-learn==1.9.1; OMP_NUM_THREADS=2 python logistic.py [REPEATS]

As the probe does it: standardized features, the penalty chosen on a stratified tenth of the training set, from the
strongest to the weakest until two in a row do no better, each fit started from the last; then all of the training set.
Writes one line of JSON: accuracy, penalty, median of the seconds.
"""
import json
import statistics
import sys
import time

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

WIDTH, CLASSES = 512, 10
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


def features(first, rows):
    y = np.arange(first, first + rows) % CLASSES
    noise = np.sin(np.arange(first * WIDTH, (first + rows) * WIDTH, dtype=np.float64) ** 2).reshape(rows, WIDTH)
    own = np.arange(WIDTH) % CLASSES == y[:, None]
    return noise.astype(np.float32) + np.float32(0.2) * own.astype(np.float32), y


def fit(model, x, y, l2):
    model.set_params(C=1 / (len(x) * l2))
    return model.fit(x, y)


def probe(train, labels, test, answers):
    scaler = StandardScaler().fit(train)
    x, test = scaler.transform(train), scaler.transform(test)
    kept, held, y, z = train_test_split(x, labels, test_size=0.1, stratify=labels, random_state=0)
    model = LogisticRegression(tol=1e-4, max_iter=1000, warm_start=True)
    best, penalty, vain = -1.0, None, 0
    for l2 in PENALTIES:
        accuracy = fit(model, kept, y, l2).score(held, z)
        vain += 1
        if accuracy > best:
            best, penalty, vain = accuracy, l2, 0
        if vain == 2:
            break
    return fit(model, x, labels, penalty).score(test, answers), penalty


(train, labels), (test, answers) = features(0, 10_000), features(10_000, 2_000)
seconds = []
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
    began = time.perf_counter()
    accuracy, penalty = probe(train, labels, test, answers)
    seconds.append(time.perf_counter() - began)
found = {"scikit-learn": sklearn.__version__, "accuracy": accuracy, "l2": penalty}
print(json.dumps({**found, "seconds": round(statistics.median(seconds), 3), "repeats": len(seconds)}))
