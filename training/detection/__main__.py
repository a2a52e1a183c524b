from training.detection import main

main()
